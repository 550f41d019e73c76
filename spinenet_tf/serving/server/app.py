"""The routes of the server.

GET  /                                        the page
GET  /v1/models/NAME                          state, as TensorFlow Serving tells it; also /versions/N
GET  /v1/models/NAME/metadata                 signatures, likewise
POST /v1/models/NAME:predict                  JSON by row or by column, likewise; also /versions/N:predict
POST /v1/models/NAME:image?min_score=0.3      one picture as the body; answers with names
GET  /healthz /readyz /metrics                for whoever runs the server
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from spinenet_tf.serving.server import images, page, rest
from spinenet_tf.serving.server.answers import named_answer
from spinenet_tf.serving.server.body import read_body
from spinenet_tf.serving.server.refusal import Refusal
from spinenet_tf.serving.server.service import AVAILABLE, Service
from spinenet_tf.serving.server.shell import Shell

_MODEL = "/v1/models/{name}"
_VERSION = "/v1/models/{name}/versions/{version}"


def create_app(service: Service) -> Shell:
  """Returns the ASGI application of a service."""
  app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
  place, settings = service.place, service.settings
  site = page.read_files()

  def check_model(name: str, version: str | None) -> None:
    if name != place.name or version not in (None, str(place.version)):
      asked = f"Specific({name[:100]}, {version[:20]})" if version is not None else f"Latest({name[:100]})"
      raise Refusal(
        404, f"Servable not found for request: {asked}; this server has {place.name}, version {place.version}"
      )

  async def read(request: Request) -> bytes:
    return await read_body(request, settings.max_body, settings.read_timeout)

  @app.get("/")
  async def show_page() -> Response:
    html = page.fill(site["index.html"], place.name, service.model.info if service.model else {})
    return Response(html, media_type="text/html")

  @app.get("/page/{file}")
  async def page_file(file: str) -> Response:
    if file not in site:
      raise Refusal(404, f"there is no {file[:100]!r}")
    return Response(site[file], media_type=page.TYPES[file.rsplit(".")[-1]])

  @app.get(_MODEL)
  @app.get(_VERSION)
  async def model_status(name: str, version: str | None = None) -> Response:
    check_model(name, version)
    status = {"error_code": "OK", "error_message": ""}
    states = [{"version": str(place.version), "state": service.state, "status": status}]
    return _json({"model_version_status": states})

  @app.get(_MODEL + "/metadata")
  @app.get(_VERSION + "/metadata")
  async def model_metadata(name: str, version: str | None = None) -> Response:
    check_model(name, version)
    if service.model is None:
      raise Refusal(503, "the model is LOADING; try again later", retry_after=5)
    signatures = {key: value.metadata() for key, value in service.model.signatures.items()}
    spec = {"name": place.name, "signature_name": "", "version": str(place.version)}
    return _json({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}})

  @app.post(_MODEL + ":predict")
  @app.post(_VERSION + ":predict")
  async def predict(request: Request, name: str, version: str | None = None) -> Response:
    check_model(name, version)
    with service.admitted():
      call = await service.in_parser(service.parse, await read(request))
      outputs = await service.run(call, request)
      return Response(await service.in_parser(rest.answer, call, outputs), media_type="application/json")

  @app.post(_MODEL + ":image")
  @app.post(_VERSION + ":image")
  async def image(request: Request, name: str, version: str | None = None) -> Response:
    check_model(name, version)
    min_score = _min_score(request.query_params.get("min_score", "0"))
    with service.admitted() as model:
      body = await read(request)
      call = await service.in_parser(service.parse_picture, body)
      outputs = await service.run(call, request)
      size = await service.in_parser(images.shown_size, body, settings.max_pixels)
      answer = await service.in_parser(named_answer, outputs, model.names, size, min_score)
      return Response(answer, media_type="application/json")

  @app.get("/healthz")
  async def healthz() -> Response:
    return PlainTextResponse("ok\n")

  @app.get("/readyz")
  async def readyz() -> Response:
    if service.state != AVAILABLE:
      return PlainTextResponse(f"{service.state}\n", 503, {"Retry-After": "5"})
    return PlainTextResponse("ok\n")

  @app.get("/metrics")
  async def metrics() -> Response:
    return Response(service.metrics.text(), media_type=service.metrics.content_type)

  _report_errors(app)
  return Shell(app, service.metrics, settings.allowed_hosts)


def _report_errors(app: FastAPI) -> None:
  """Every error is answered as TensorFlow Serving does: `{"error": reason}`."""

  @app.exception_handler(Refusal)
  async def refused(request: Request, error: Refusal) -> Response:
    return JSONResponse({"error": error.reason}, error.status, error.headers)

  @app.exception_handler(HTTPException)
  async def no_route(request: Request, error: HTTPException) -> Response:
    reason = f"{error.detail}: {request.method} {request.url.path[:200]}"
    return JSONResponse({"error": reason}, error.status_code, error.headers)

  @app.exception_handler(RequestValidationError)
  async def bad_parameters(request: Request, error: RequestValidationError) -> Response:
    return JSONResponse({"error": str(error)[:300]}, 400)

  @app.exception_handler(Exception)
  async def failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed; its log says why"}, 500)


def _min_score(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value <= 1:
    raise Refusal(400, f"min_score={text[:30]!r} is no number from 0 to 1")
  return value


def _json(document: Any) -> Response:
  return Response(json.dumps(document, indent=1) + "\n", media_type="application/json")
