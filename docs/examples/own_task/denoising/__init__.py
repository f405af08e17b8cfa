"""Denoising with SuperTickets, as an example of an own task."""
