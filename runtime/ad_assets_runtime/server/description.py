"""The routes of the server as OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
_MAYBE = {"type": ["number", "null"]}
_RESULT = {
    "type": "object",
    "properties": {
        "image_id": {**_TEXT, "description": "sha256 of the file, with notes on its decoding"},
        "score": {**_NUMBER, "description": "higher is more anomalous"},
        "threshold": {**_MAYBE, "description": "scores above it are anomalous; null: nothing is decided"},
        "p_value": {**_MAYBE, "description": "how rare such a score is among nominal images, 0..1"},
        "anomalous": {"type": ["boolean", "null"]},
        "decided": {**_TEXT, "description": "when a person called this very file a false alarm; else empty"},
        "regions": {"type": "array", "description": "defects in pixels of the image: box, area, peak, centroid"},
        "champion": {"type": "object", "description": "what scored it: state, bundle, since"},
    },
}
_ERROR = {"type": "object", "properties": {"error": _TEXT}}
_PLACE = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in ("dataset", "category")]
_LANE = {"name": "lane", "in": "query", "schema": _TEXT, "description": "where several detectors are served"}
_IMAGE = {"name": "image_id", "in": "path", "required": True, "schema": _TEXT}
_MODEL = [{"name": "model", "in": "path", "required": True, "schema": _TEXT, "description": "dataset.lane.category"}]
_PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_FEEDBACK = {
    "type": "object",
    "required": ["image_id", "said"],
    "properties": {
        "image_id": _TEXT,
        "said": {"enum": ["false_alarm", "missed", "confirmed", "undo"]},
        "reason": _TEXT,
        "defect": {**_TEXT, "description": "kind of defect, of missed and confirmed images"},
    },
}


def description(version: str, with_token: bool) -> dict[str, Any]:
    """The document.

    Args:
        version: of this package.
        with_token: whether a token is asked for.
    """
    security: dict[str, Any] = {"security": [{"token": []}]} if with_token else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ad-assets line server", "version": version},
        "paths": {
            "/v1/{dataset}/{category}/predict": {
                "post": {
                    **_operation(
                        "Score one image file, whose bytes are the body; with Accept: image/png its heat map."
                    ),
                    "parameters": [*_PLACE, _LANE, _query("name", "of the image, for people")],
                    "requestBody": {"required": True, "content": _FILE},
                    "responses": _responses(
                        {"application/json": {"schema": _RESULT}, **_PNG}, 400, 404, 408, 413, 415, 429
                    ),
                }
            },
            "/v1/{dataset}/{category}/feedback": {
                "post": {
                    **_operation("Say what a recent image is, so that the line learns it."),
                    "parameters": [*_PLACE, _LANE],
                    "requestBody": {"required": True, "content": {"application/json": {"schema": _FEEDBACK}}},
                    "responses": _responses({"application/json": {}}, 400, 404, 415),
                }
            },
            "/v1/{dataset}/{category}/images/{image_id}": _get("A recent image.", [*_PLACE, _LANE, _IMAGE], _PNG, 404),
            "/v1/{dataset}/{category}/images/{image_id}/heat-map": _get(
                "Its heat map.", [*_PLACE, _LANE, _IMAGE], _PNG, 404, 410
            ),
            "/v1/inspections": _get(
                "The last inspections, the newest first.",
                [_query("most", "at most 200"), _query("dataset", ""), _query("category", "")],
            ),
            "/v1/champions": _get("What is served since when, and what is refused and why."),
            "/v2/health/live": _get("Whether the server lives."),
            "/v2/health/ready": _get("Whether it serves any champion.", [], None, 503),
            "/v2/models/{model}": _get("Inputs and outputs of a model.", _MODEL, None, 404),
            "/v2/models/{model}/ready": _get("Whether it is served.", _MODEL, None, 404),
            "/v2/models/{model}/infer": {
                "post": {
                    **_operation("Open Inference Protocol v2; input image: BYTES [1] or UINT8 [h, w, 3]."),
                    "parameters": _MODEL,
                    "requestBody": {"required": True, "content": {"application/json": {}}},
                    "responses": _responses({"application/json": {}}, 400, 404, 408, 413, 429),
                }
            },
            "/metrics": _get("For Prometheus.", [], {"text/plain": {"schema": _TEXT}}),
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        **security,
    }


def _operation(summary: str) -> dict[str, Any]:
    return {"summary": summary}


def _query(name: str, words: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": _TEXT, "description": words}


def _get(
    summary: str, parameters: list[dict[str, Any]] | None = None, content: dict[str, Any] | None = None, *errors: int
) -> dict[str, Any]:
    answered = _responses(content or {"application/json": {}}, *errors)
    return {"get": {**_operation(summary), "parameters": parameters or [], "responses": answered}}


def _responses(content: dict[str, Any], *errors: int) -> dict[str, Any]:
    words = {
        400: "no image, or no such request",
        404: "not served, or not kept",
        408: "the body came too slowly",
        410: "its champion has gone",
        413: "too large",
        415: "another kind of body",
        429: "busy: see Retry-After",
        503: "no champion as yet",
    }
    refused = {"content": {"application/json": {"schema": _ERROR}}}
    return {
        "200": {"description": "", "content": content},
        **{str(e): {"description": words[e], **refused} for e in errors},
    }
