"""File formats: each opens one kind of file as lazy tensors, without reading their values."""
