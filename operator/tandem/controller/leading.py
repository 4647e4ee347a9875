"""What the leader does: cache, watches, queue and workers, from the first list to the last write."""

from __future__ import annotations

import asyncio
import logging
import random

from tandem.controller.artifacts import Artifacts
from tandem.controller.blueprint import BlueprintReconciler
from tandem.controller.deployment import DeploymentReconciler
from tandem.controller.desired import Renderer
from tandem.controller.facts import FactsReader
from tandem.controller.failure import FailureReporter
from tandem.controller.health import Health
from tandem.controller.job import job_reconciler
from tandem.controller.loading import LoadingReader, RouterSource
from tandem.controller.metrics import Metrics
from tandem.controller.nodes import GpuNodes
from tandem.controller.probes import Probes
from tandem.controller.route import route_reconciler
from tandem.controller.settings import OperatorSettings
from tandem.controller.statuswriter import StatusWriter
from tandem.controller.texts import ConfigTexts
from tandem.controller.uses import Uses
from tandem.controller.worker import Reconciler, Workers
from tandem.kube.cache import Cache, Entry, Ref
from tandem.kube.children import follow_children
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.connection import Connection
from tandem.kube.discovery import Scope
from tandem.kube.optional import OptionalKind
from tandem.kube.queue import WorkQueue
from tandem.kube.resources import (
    LEADER_WORKER_SET,
    MODEL_BLUEPRINT,
    MODEL_DEPLOYMENT,
    MODEL_JOB,
    MODEL_ROUTE,
    OWN_KINDS,
    POD,
    WORKLOAD_KINDS,
)
from tandem.kube.schemas import schema_differences
from tandem.kube.verify import Verifier
from tandem.kube.watch import Watcher
from tandem.manifests.cluster import Cluster
from tandem.rendering.library import load_library

logger = logging.getLogger(__name__)

# Pods and workloads tell of one step in several events, a moment apart.
PROGRESS_SECONDS = 0.05
OWN = frozenset(resource.kind for resource in OWN_KINDS)


class Controller:
    """One run of the leader: `work` until it is cancelled, then `finish` the writes under way, then `close`.

    `client` is fenced by the lease.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        *,
        connection: Connection,
        client: Client,
        clock: Clock,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._health = health
        self._cache = Cache()
        self._queue: WorkQueue[Ref] = WorkQueue(clock)
        self._probes = Probes(self._cache)
        self._artifacts = Artifacts(self._cache)
        self._scope: Scope = settings.namespaces or (None,)
        self._verifier = Verifier(client, self._cache, self._scope, clock, on_gone=self._enqueue)
        self._watcher = Watcher(
            connection, self._cache, self._scope, on_change=self._enqueue, on_relist=self._verifier.relisted
        )
        self._workers = Workers(self._queue, metrics)
        health.oldest_item = lambda: self._queue.oldest_age
        metrics.read_from(
            depth=lambda: len(self._queue), oldest=lambda: self._queue.oldest_age, objects=lambda: len(self._cache)
        )

    async def watch(self) -> None:
        """Runs the watches until `close`; raises when one fails for good."""
        await self._watcher.run()
        raise RuntimeError("the watch runtime has ended by itself")

    async def watching(self) -> None:
        """Returns when the watches have begun."""
        await self._watcher.started()

    async def work(self) -> None:
        """Waits for a complete cache, then works until cancelled. Raises ApiError and WatchStuck."""
        cluster = Cluster(
            library=load_library().complete(),
            router_image=self._settings.router_image,
            images=self._settings.images,
            cluster_domain=self._settings.cluster_domain,
            gpus_per_node=self._settings.gpus_per_node,
        )
        renderer = Renderer(cluster)
        async with asyncio.TaskGroup() as watches:
            watches.create_task(
                follow_children(self._client, self._cache, self._scope, self._clock, self._enqueue), name="children"
            )
            leader_worker_sets = self._leader_worker_sets(renderer)
            watches.create_task(leader_worker_sets.run(), name="leader worker sets")
            await self._verifier.verify_all()
            await leader_worker_sets.known()
            logger.info("the cache is complete: %d objects", len(self._cache))
            self._health.state = "leading"
            await self._reconcile(renderer)

    async def _reconcile(self, renderer: Renderer) -> None:
        """Works on a complete cache until cancelled. Raises ApiError and WatchStuck."""
        async with (
            RouterSource() as routers,
            LoadingReader(routers, self._clock, changed=self._queue.add) as loading,
            ConfigTexts(self._client, self._clock, changed=self._queue.add) as texts,
            GpuNodes(
                self._client, self._clock, cluster_wide=self._settings.namespaces is None, changed=self._look_at_all
            ) as nodes,
            asyncio.TaskGroup() as group,
        ):
            statuses = StatusWriter(self._client, self._cache, self._clock)
            self._workers.start(
                self._reconcilers(renderer, statuses, texts, loading, nodes),
                FailureReporter(self._cache, statuses, self._clock),
                self._settings.workers,
            )
            group.create_task(self._verifier.run(self._settings.resync_seconds))
            group.create_task(self._resync())

    def _leader_worker_sets(self, renderer: Renderer) -> OptionalKind:
        """Followed where the cluster serves them; when that changes, every deployment is looked at."""

        def serve(served: bool) -> None:
            renderer.serve(frozenset({LEADER_WORKER_SET.api}) if served else frozenset())
            self._look_at_all()

        return OptionalKind(
            self._client,
            self._cache,
            self._scope,
            self._clock,
            LEADER_WORKER_SET,
            on_change=self._enqueue,
            on_served=serve,
        )

    def _look_at_all(self) -> None:
        """Has every deployment looked at."""
        for entry in self._cache.of_kind(MODEL_DEPLOYMENT.kind):
            self._queue.add(entry.ref)

    async def finish(self, seconds: float) -> None:
        """Begins no more work and lets what is under way end within `seconds`."""
        await self._workers.stop(seconds)

    def close(self) -> None:
        """Ends the watches."""
        self._watcher.stop()

    async def _resync(self) -> None:
        """Looks at everything now and then, spread out, whether anything told us to or not."""
        every = self._settings.resync_seconds
        while True:
            await self._look_at_schemas()
            await self._clock.sleep(every)
            for kind in OWN:
                for entry in self._cache.of_kind(kind):
                    self._queue.add_after(entry.ref, random.uniform(0, every / 10))  # noqa: S311 - spreads load

    async def _look_at_schemas(self) -> None:
        """Tells, once, when the CRDs are of another version than the operator."""
        notice = await schema_differences(self._client)
        if notice and notice != self._health.notice:
            logger.warning("%s", notice)
        self._health.notice = notice

    def _enqueue(self, entry: Entry, before: Entry | None = None) -> None:
        """Asks for work on what a change of `entry` concerns."""
        if entry.ref.kind in OWN:
            self._queue.add(entry.ref)
            for reader in self._artifacts.readers(entry.ref):
                self._queue.add(reader)
        elif entry.deployment:
            key = Ref(MODEL_DEPLOYMENT.kind, entry.ref.namespace, entry.deployment)
            if _is_progress(entry, before):
                self._queue.add_after(key, PROGRESS_SECONDS)
            else:
                self._queue.add(key)
        elif entry.ref.kind == POD.kind and (blueprint := self._probes.note(entry)) is not None:
            self._queue.add(blueprint)

    def _reconcilers(
        self,
        renderer: Renderer,
        statuses: StatusWriter,
        texts: ConfigTexts,
        loading: LoadingReader,
        nodes: GpuNodes,
    ) -> dict[str, Reconciler]:
        uses = Uses(self._cache, changed=self._queue.add)
        facts = FactsReader(
            self._cache, uses=uses, probes=self._probes, nodes=nodes, clock=self._clock, need=self._queue.add
        )
        deployments = DeploymentReconciler(
            client=self._client,
            cache=self._cache,
            renderer=renderer,
            statuses=statuses,
            texts=texts,
            loading=loading,
            facts=facts,
            clock=self._clock,
            cluster_domain=self._settings.cluster_domain,
        )
        blueprints = BlueprintReconciler(
            client=self._client,
            cache=self._cache,
            statuses=statuses,
            texts=texts,
            clock=self._clock,
            uses=uses,
            probes=self._probes,
            artifacts=self._artifacts,
            image=self._settings.router_image,
            changed=self._queue.add,
        )
        return {
            MODEL_DEPLOYMENT.kind: deployments,
            MODEL_BLUEPRINT.kind: blueprints,
            MODEL_JOB.kind: job_reconciler(self._cache, statuses, self._clock),
            MODEL_ROUTE.kind: route_reconciler(self._cache, statuses, self._clock),
        }


def _is_progress(entry: Entry, before: Entry | None) -> bool:
    """Whether a change tells how far something is, rather than that somebody has changed what should be."""
    if entry.ref.kind == POD.kind:
        return True
    same = before is not None and (before.uid, before.generation) == (entry.uid, entry.generation)
    return same and entry.ref.kind in WORKLOAD_KINDS and not entry.deleting
