"""The nftables table that drops what exclusive rules have relayed."""
