"""Whether a node traces, and with what. Imports OpenTelemetry only where it is used."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from perdure.errors import ConfigurationError
from perdure.logs import fields
from perdure.workflow.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger("perdure.telemetry")

#: Any of these says where traces go; OpenTelemetry's own variables.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
INSTALL = "pip install 'perdure[otel]'"


def tracing_of(provider: object | None, *, app_id: str, node: str) -> Tracing | None:
    """With the provider given, else with the one that the program has set (`trace.set_tracer_provider`); None where
    there is none, and OpenTelemetry is then not imported. `ConfigurationError` for anything but a provider of
    OpenTelemetry's SDK."""
    if provider is None and "opentelemetry.sdk.trace" not in sys.modules:
        return None
    try:
        from opentelemetry.sdk.trace import Tracer, TracerProvider

        from perdure.telemetry.otel import OtelTracing, global_provider
    except ImportError as error:
        raise ConfigurationError(f"traces need the extra otel: {INSTALL}") from error
    if provider is None:
        provider = global_provider()
        if provider is None:
            return None
    if not isinstance(provider, TracerProvider):
        raise ConfigurationError(
            f"tracer_provider is {type(provider).__name__}; it must be opentelemetry.sdk.trace.TracerProvider"
        )
    if not isinstance(provider.get_tracer("perdure"), Tracer):
        return None  # OTEL_SDK_DISABLED
    return OtelTracing(provider, app_id=app_id, node=node)


def provider_of_environment(app_id: str, namespace: str) -> TracerProvider | None:
    """For programs: a provider that sends to where OpenTelemetry's variables say, set for the whole process. None
    where they say nothing, or the program has a provider. What it holds is sent by its `shutdown`."""
    environment = os.environ
    if not any(environment.get(name) for name in ENDPOINTS):
        return None
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from perdure.telemetry.otel import global_provider
    except ImportError:
        # The variable may be meant for other programs.
        log.warning("traces.off", extra=fields(reason=f"traces need the extra otel: {INSTALL}"))
        return None
    if global_provider() is not None:
        return None
    about = {"service.namespace": namespace}
    named = "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not (named or environment.get("OTEL_SERVICE_NAME")):
        about["service.name"] = app_id
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider
