"""What a user writes: the custom resources as models, their status, and the CRDs made from them."""
