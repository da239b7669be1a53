"""Trains a LoRA for a model, on clips and images of a person."""
