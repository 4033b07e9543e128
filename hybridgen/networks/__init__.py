"""Generators and critics, each saved and loaded as a diffusers model."""
