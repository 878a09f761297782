"""`mm1 chat`: a page and an OpenAI-compatible API over one engine.

protocol   the bodies of requests, as OpenAI's clients send them, errors in their form
prompts    a body to a document, within limits
engine     a queue with one worker, which generates
replies    tokens to the bodies of answers, whole or streamed
guard      who may call, and how much they may send
app        the routes of the API
page       the page and its routes; `page.html` is all of it
inspection what the page shows beside the chat
server     host, port and token
terminal   the same in a terminal
"""
