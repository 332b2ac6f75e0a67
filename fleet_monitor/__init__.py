"""Watches a fleet: what every board does, and how fast; read `fleet.py` first.

fleet      the live picture           collector  fills it from MQTT
soundness  checks telemetry           history    keeps it in SQLite
intervals  subtracts its sketches     listing    reads it back
conditions and description  say it in words
"""
