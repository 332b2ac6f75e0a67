"""The board's agent: acts in its own environment, reports, and learns nothing itself; read `supervisor.py` first.

supervisor  owns MQTT, outbox, policies and health     worker   owns environments and interpreter, one process each
rollout     fills exact windows                        sampling what acts, on the wire grid
policy      one .tflite file in an interpreter         outbox   what the learner has not acked
"""
