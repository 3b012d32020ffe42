"""Links: their present state, their changes, their receive offloads, their deletion."""
