"""`jobd run --scaler-listen` as KEDA calls it, over TLS with and without a certificate of its own."""

from pathlib import Path

import grpc
import pytest

from peerjob import Client, Job, Node
from support.division import in_matrix
from support.etcd import Certificates
from support.jobd import Jobd, target
from support.keda import Keda
from support.servers import ServerProcess
from support.waiting import PATIENCE, until

ANSWERS = r"answers KEDA on (\S+)"


@pytest.fixture(params=["redis", in_matrix("etcd")])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    found: ServerProcess = request.getfixturevalue(f"{request.param}_server")
    return found


async def test_a_node_without_workers_reports_the_demand_of_the_cluster(
    jobd: Jobd, server: ServerProcess, namespace: str, tmp_path: Path
) -> None:
    store = ("--store", server.url, "--namespace", namespace)
    worker = jobd.run(*store, "--workers", "2")
    scaler = jobd.run(*store, "--workers", "0", "--scaler-listen", "127.0.0.1:0")
    async with (
        grpc.aio.insecure_channel(scaler.wait_for(ANSWERS)[1]) as channel,
        Client(target(scaler)) as client,
    ):
        keda = Keda(channel)
        assert not await keda.active(jobsPerReplica="2")
        held = [await client.schedule("held", str(tmp_path / "go")) for _ in range(5)]

        async def demand_is(jobs: int) -> bool:
            return await keda.jobs(jobsPerReplica="2", kinds="held") == jobs

        await until(lambda: demand_is(5))
        assert await keda.active(jobsPerReplica="2")
        assert await keda.jobs(jobsPerReplica="2", kinds="double") == 0

        (tmp_path / "go").touch()
        for one in held:
            await one.result(timeout=PATIENCE)
        await until(lambda: demand_is(0))
    assert worker.terminate() == scaler.terminate() == 0


async def test_a_due_job_without_a_node_wakes_a_target_at_zero(jobd: Jobd, redis_url: str, namespace: str) -> None:
    scaler = jobd.run(
        *("--store", redis_url, "--namespace", namespace, "--workers", "0", "--scaler-listen", "127.0.0.1:0")
    )
    async with (
        Node(redis_url, namespace=namespace, workers=0, allow_unknown=True) as client,
        grpc.aio.insecure_channel(scaler.wait_for(ANSWERS)[1]) as channel,
    ):
        stream = Keda(channel).stream(jobsPerReplica="1")
        assert not await Keda.is_active(stream)
        await client.schedule(Job[[int], int]("double").with_options(after=0.5), 1)
        assert await Keda.is_active(stream)


@pytest.mark.parametrize("mutual", [False, True])
async def test_it_has_the_tls_of_the_service(jobd: Jobd, signed: Certificates, *, mutual: bool) -> None:
    options = ["--tls-cert", str(signed.server_cert), "--tls-key", str(signed.server_key)]
    child = jobd.run(
        *options, *(["--tls-client-ca", str(signed.ca)] if mutual else []), "--scaler-listen", "127.0.0.1:0"
    )
    where = child.wait_for(ANSWERS)[1]
    ca = signed.ca.read_bytes()
    anonymous = grpc.ssl_channel_credentials(ca)
    known = grpc.ssl_channel_credentials(ca, signed.client_key.read_bytes(), signed.client_cert.read_bytes())

    async with grpc.aio.secure_channel(where, known) as channel:
        assert not await Keda(channel).active()
    async with grpc.aio.secure_channel(where, anonymous) as channel:
        if mutual:
            with pytest.raises(grpc.aio.AioRpcError):
                await Keda(channel).active()
        else:
            assert not await Keda(channel).active()
    async with grpc.aio.insecure_channel(where) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await Keda(channel).active()
