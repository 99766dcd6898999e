"""The cluster as JSON."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from perdure.cluster_view import ClusterView, Handover, Heard, NodeView
from perdure.sidecar.decoded import time_text
from perdure.sidecar.facade import Facade
from perdure.sidecar.routes import Route, json_response
from perdure.workflow.limits import Queue


def cluster_json(view: ClusterView) -> dict[str, Any]:
    return {
        "term": view.term,
        "epoch": view.epoch,
        "leader": view.leader,
        "partitions": view.partitions,
        "nodes": [_node(node) for node in view.nodes],
        "actorTypes": [
            {
                "name": one.name,
                "partitions": one.partitions,
                "nodes": one.nodes,
                "activations": one.activations,
            }
            for one in view.types
        ],
        "handovers": [_handover(one) for one in view.handovers],
    }


def _node(node: NodeView) -> dict[str, Any]:
    return {
        "id": node.node,
        "this": node.this,
        "leads": node.leads,
        "address": node.address,
        "http": node.http,
        "appID": node.app_id,
        "namespace": node.namespace,
        "weight": node.weight,
        "actorTypes": node.actor_types,
        "workflows": node.workflows,
        "activities": node.activities,
        "partitions": node.partitions,
        "answered": node.heard is not None,
        **(_heard(node.heard) if node.heard is not None else {}),
    }


def _heard(heard: Heard) -> dict[str, Any]:
    figures = heard.figures
    return {
        "release": figures.release,
        "startedAt": time_text(figures.started),
        "activations": figures.activations,
        "activitiesRunning": figures.activities_running,
        "activitiesQueued": figures.activities_queued,
        "commitsPending": figures.commits_pending,
        "queues": {
            kind: {name: _queue(queue) for name, queue in queues.items()}
            for kind, queues in figures.queues.items()
        },
        "clockDifference": heard.clock_difference / 1_000_000,
        "roundTrip": heard.round_trip / 1_000_000,
    }


def _queue(queue: Queue) -> dict[str, Any]:
    """A limit or share that is missing: there is none."""
    found = {
        "running": queue.running,
        "queued": queue.queued,
        "limit": queue.limit,
        "globalLimit": queue.global_limit,
        "share": queue.share,
    }
    return {key: value for key, value in found.items() if value is not None}


def _handover(one: Handover) -> dict[str, Any]:
    return {"actorType": one.type, "partitions": one.partitions, "from": one.before, "to": one.after}


class ClusterApi:
    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    def routes(self) -> list[Route]:
        return [Route("GET", "/v1.0/cluster", self.cluster, "ERR_CLUSTER_GET")]

    async def cluster(self, request: web.Request) -> web.Response:
        return json_response(cluster_json(await self._facade.cluster()))
