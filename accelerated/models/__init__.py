"""Networks that predict the noise."""
