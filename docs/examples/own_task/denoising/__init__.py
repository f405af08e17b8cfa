"""Denoising with SuperTickets, as an example of a task of your own."""
