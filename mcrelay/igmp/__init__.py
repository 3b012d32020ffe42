"""Memberships, and what a network says and does about them."""
