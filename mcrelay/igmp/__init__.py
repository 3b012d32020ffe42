"""Memberships, and IGMP on the links: queries heard, reports sent, and what goes wrong."""
