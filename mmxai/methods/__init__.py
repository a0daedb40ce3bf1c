"""Methods of interpretation: each reads a store or a live model and returns a result. None imports another."""
