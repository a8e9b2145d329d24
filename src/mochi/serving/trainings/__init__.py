"""Trainings as durable jobs: an upload of clips becomes an adapter that the server offers."""
