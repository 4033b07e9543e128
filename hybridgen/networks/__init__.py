"""Generators and discriminators, each saved and loaded as a diffusers model."""
