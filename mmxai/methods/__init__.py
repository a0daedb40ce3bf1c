"""Methods of interpretation: each reads a store or a live model. None imports another."""
