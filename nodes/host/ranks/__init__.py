"""MODEL and VAE over the ranks of a group, and the one group of this process."""
