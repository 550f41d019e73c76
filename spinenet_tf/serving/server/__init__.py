"""A server of exported models: TensorFlow Serving's REST, a page for trying photos, limits, batching, metrics.

B is the number of rows of a request, which for pictures is their number. Needs the extra `serve`.
"""
