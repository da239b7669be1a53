"""Names: what each publisher calls the tensors, as the names of the published checkpoint."""
