"""The learner: corrects what boards did with older policies, learns from it, and publishes; read `learner.py` first.

intake      what comes from boards: decoded, checked, counted     delivery_ledger   which windows are finished
algorithms  how a batch becomes an update                         policy_publisher  how an update becomes a policy
networks    encoder, memory, policy and value
"""
