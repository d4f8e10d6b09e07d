"""An image becomes features: models, image decoding, batching, and the worker process that runs them."""
