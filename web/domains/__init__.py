"""Domains that the web process serves: one module each, found by :mod:`web.domain`."""
