"""Webhooks: what a forge, or another program, tells starts jobs.

    a request to /v1/hooks/{id}
      │  deliveries    known hook, not too many refused of this address, body within its size and time
      │  signatures    signed with a secret of the hook's (keys): from here on the hook's own sender is spoken to
      │  forges        read by the hook's kind into facts: event, branch, commit, sender, ...
      │  rules         is it one that starts a job; where its inputs come from
      ▼  deliveries    one transaction: remembered, and its job submitted

What is told to who is not verified is the same for every hook and for none. The same delivery, however often and at
however many replicas it comes, has one job: a row of moonyard.hook_deliveries is unique by what the signature covers.
That is the delivery's id where a signature covers it (Standard Webhooks: generic, and gitlab), and the body's hash
where it does not (github, gitea: who has seen a delivery could send it again under another id).
"""
