"""Write `.tflite` files directly, with numpy and flatbuffers alone: `policy.py` says what, the others how.

A converter takes seconds and gigabytes of environment for what is, for a policy, a few tables around a few
arrays; a learner that publishes every second has neither.
"""
