"""Verifiers of the TEE platforms, one package each: is this evidence genuine?"""
