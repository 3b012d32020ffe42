"""The frozen values that every other package uses, and streams and rates as text. Imports only errors."""
