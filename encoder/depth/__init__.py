"""Less depth: leaving early, leaving blocks out, and gates that learn which."""
