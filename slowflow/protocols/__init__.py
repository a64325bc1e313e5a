"""Protocols: how the authors of each family sample, under one name, and what they count."""

from __future__ import annotations

from slowflow.protocols.base import PROTOCOLS, SamplingProtocol, calls_of_protocols, protocol

__all__ = ["PROTOCOLS", "SamplingProtocol", "calls_of_protocols", "protocol"]
