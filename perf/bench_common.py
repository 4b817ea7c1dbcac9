"""What the scripts of perf/ share: the gateways under test, and the load in front of them.

Owns the processes it starts (killed at exit, by pid, whatever happens) and a scratch folder. All
measuring is done by the holdfast-perf binary; nothing here judges a figure.
"""
import atexit
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
SCRATCH = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-perf-"))
SCRATCH.chmod(0o755)
_running = []


def _cleanup():
    for process in reversed(_running):
        stop(process)
    shutil.rmtree(SCRATCH, ignore_errors=True)


atexit.register(_cleanup)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def binary(name, override=None):
    """A release binary of this workspace, or the one given."""
    path = pathlib.Path(override) if override else target() / "release" / name
    if not path.exists():
        sys.exit(f"{path} is not there: cargo build --release -p "
                 + ("holdfast-perf" if name == "holdfast-perf" else "holdfast"))
    return str(path)


def free_port():
    """A free port below the ephemeral range, so that no client connection can take it first."""
    for port in range(20000 + os.getpid() % 5000, 32000):
        if port in free_port.given:
            continue
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        free_port.given.add(port)
        return port
    sys.exit("no free port")


free_port.given = set()


def pinned(cpu, command):
    return command if cpu is None else ["taskset", "-c", str(cpu), *command]


def start(cpu, command, log):
    """Starts a process on a CPU; its output goes to a file of the scratch folder."""
    out = open(SCRATCH / log, "ab")
    process = subprocess.Popen(pinned(cpu, command), stdout=out, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL)
    _running.append(process)
    return process


def stop(process):
    if process in _running:
        _running.remove(process)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_open(port, process, log, seconds=15):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return
        except OSError:
            time.sleep(0.05)
    text = (SCRATCH / log).read_text(errors="replace")
    sys.exit(f"{log}: does not listen on {port}:\n{text[-2000:]}")


def children(pid):
    path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    found = []
    for child in path.read_text().split() if path.exists() else []:
        found += [int(child), *children(int(child))]
    return found


class Gateway:
    """A process between load and upstream."""
    # Whether its session cookies are its own and must be learnt.
    learns = False

    def __init__(self, name):
        self.name = name
        self.process = None
        self.port = None
        self.jar = None

    def launch(self, cpu, command, log):
        self.process = start(cpu, command, log)
        wait_open(self.port, self.process, log)

    def pids(self):
        return [self.process.pid, *children(self.process.pid)]

    def stop(self):
        stop(self.process)

    def fill(self, template, **names):
        text = (HERE / "rivals" / template).read_text()
        for key, value in {"LISTEN": self.port, "DIR": SCRATCH, **names}.items():
            text = text.replace(f"@{key}@", str(value))
        path = SCRATCH / f"{self.name}-{self.port}-{template}"
        path.write_text(text)
        return str(path)


class Relay(Gateway):
    def start(self, bench):
        self.port = free_port()
        extra = ["--duplex", "--buffer", "64KiB"] if bench.large else ["--buffer", bench.args.relay_buffer]
        self.launch(bench.gateway_cpu, [bench.perf, "relay", "--listen", f"127.0.0.1:{self.port}",
                                        "--to", f"127.0.0.1:{bench.ports[0]}", *extra], "relay.log")


class Nginx(Gateway):
    def start(self, bench):
        self.port = free_port()
        buffers = "proxy_buffer_size 16k; proxy_buffers 16 64k;" if bench.large else ""
        forwarded = ("proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; "
                     "proxy_set_header X-Forwarded-Proto $scheme; "
                     "proxy_set_header X-Forwarded-Host $http_host;") if bench.args.forwarded else ""
        config = self.fill("nginx.conf", A=bench.ports[0], B=bench.ports[1], BUFFERS=buffers,
                           FORWARDED=forwarded)
        self.launch(bench.gateway_cpu, ["nginx", "-c", config, "-e", str(SCRATCH / "nginx.log")],
                    "nginx.log")


class Haproxy(Gateway):
    def start(self, bench):
        self.port = free_port()
        forwarded = ("option forwardfor\n    http-request set-header X-Forwarded-Proto http\n"
                     "    http-request set-header X-Forwarded-Host %[req.hdr(host)]"
                     ) if bench.args.forwarded else ""
        config = self.fill("haproxy.cfg", A=bench.ports[0], B=bench.ports[1], FORWARDED=forwarded)
        self.launch(bench.gateway_cpu, ["haproxy", "-db", "-f", config], "haproxy.log")


class Holdfast(Gateway):
    learns = True

    def __init__(self, name, more=()):
        super().__init__(name)
        # Configuration files that are merged over the usual one.
        self.more = more

    def start(self, bench):
        self.port, self.admin = free_port(), free_port()
        config = self.fill("holdfast.yaml", A=bench.ports[0], B=bench.ports[1], ADMIN=self.admin,
                           CORES=bench.args.cores)
        files = ["-c", config]
        for extra in [*self.more, *bench.args.config]:
            files += ["-c", extra]
        self.launch(bench.gateway_cpu,
                    [binary("holdfast", bench.args.holdfast), "run", *files], "holdfast.log")

    def metric(self, name):
        """The sum of a metric over its labels, from the admin's /metrics; None if it has none."""
        import urllib.request
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                  if line.split("{")[0].split(" ")[0] == name]
        return sum(values) if values else None

    def settled(self, name, seconds=10):
        """A gauge that cores publish about once a second: read until it stands still."""
        last, end = None, time.monotonic() + seconds
        while time.monotonic() < end:
            now = self.metric(name)
            if now == last:
                return now
            last = now
            time.sleep(1.5)
        return last


KINDS = {"relay": Relay, "nginx": Nginx, "haproxy": Haproxy, "holdfast": Holdfast}


class Bench:
    """The upstream, the CPUs, and the way to send load."""

    def __init__(self, args, large=False, upstream_args=()):
        self.args = args
        self.large = large
        self.perf = binary("holdfast-perf", args.perf)
        cpus = sorted(os.sched_getaffinity(0))
        self.gateway_cpu, self.load_cpu = args.gateway_cpu, args.load_cpu
        if len(cpus) < 2:
            print("one CPU only: nothing is pinned, figures mean little", file=sys.stderr)
            self.gateway_cpu = self.load_cpu = None
        self.ports = [free_port(), free_port()]
        size = "1MiB" if large else str(args.size)
        self.upstream = start(self.load_cpu, [
            self.perf, "upstream", "--listen", f"a=127.0.0.1:{self.ports[0]}",
            "--listen", f"b=127.0.0.1:{self.ports[1]}", "--size", size, *upstream_args], "upstream.log")
        wait_open(self.ports[1], self.upstream, "upstream.log")

    def load(self, gateway, *arguments):
        """One run of the load generator; its report, with every error told on stderr."""
        noise = wait_quiet(self.args.wait_quiet) if self.args.wait_quiet else None
        if noise:
            print(f"  others use {100 * noise:.0f} % of a CPU", file=sys.stderr)
        pids = ",".join(map(str, gateway.pids()))
        command = pinned(self.load_cpu, [
            self.perf, "load", "--to", f"127.0.0.1:{gateway.port}", "--json",
            "--watch", f"gateway={pids}", "--watch", f"upstream={self.upstream.pid}",
            *map(str, arguments)])
        out = subprocess.run(command, capture_output=True, text=True)
        if not out.stdout.strip():
            sys.exit(f"{gateway.name}: load said nothing: {out.stderr}")
        report = json.loads(out.stdout)
        bad = {k: v for k, v in report["statuses"].items() if k != "200"}
        if report["errors"] or bad or report["stuck"]:
            print(f"  {gateway.name}: errors {report['errors']} statuses {bad}"
                  f"{' STUCK' if report['stuck'] else ''} {out.stderr.strip()}", file=sys.stderr)
        return report

    def clients(self, gateway):
        """The load arguments that give a gateway its sessions."""
        count = self.args.sessions
        if count == 0:
            return []
        if gateway.learns:
            return ["--cookies", gateway.jar] if gateway.jar else ["--clients", count]
        return ["--clients", count, "--mint", "sid:74"]

    def warm(self, gateway, count=None):
        """Every session used at least twice, so that created ones are confirmed and tables full."""
        count = count or self.args.sessions or 20000
        arguments = ["--connections", 64, "--timeout", "20s"]
        if gateway.learns and self.args.sessions:
            jar = SCRATCH / f"{gateway.name}-{gateway.port}.jar"
            self.load(gateway, *arguments, "--clients", count, "--requests", 2 * count,
                      "--jar-out", jar)
            gateway.jar = jar
            with open(jar, encoding="ascii") as lines:
                empty = sum(1 for line in lines if not line.strip())
            if empty:
                print(f"  {gateway.name}: {empty} of {count} clients got no cookie", file=sys.stderr)
        else:
            self.load(gateway, *arguments, *self.clients(gateway), "--requests", count)


def steal():
    """Ticks stolen by the hypervisor, and all ticks."""
    fields = list(map(int, pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]))
    return fields[7], sum(fields[:8])


def wait_quiet(seconds):
    """Waits until nobody else uses a tenth of a CPU for half a second, at most so long; the share of
    one CPU in use when it gave up, or None. Called while no load runs."""
    def used():
        fields = list(map(int, pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]))
        return sum(fields[:3]) + sum(fields[5:8])
    end = time.monotonic() + seconds
    while True:
        before, at = used(), time.monotonic()
        time.sleep(0.5)
        share = (used() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - at)
        if share < 0.1:
            return None
        if time.monotonic() >= end:
            return share


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def spread(values, form="{:.2f}"):
    """median (min .. max)"""
    f = form.format
    return f"{f(median(values))} ({f(min(values))} .. {f(max(values))})"


def arguments(parser):
    """The arguments that all scripts know."""
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, help="window of each measurement")
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--size", type=int, default=600, help="bytes of the upstream's body")
    parser.add_argument("--gateway-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1, help="load and upstream")
    parser.add_argument("--cores", default="1", help="runtime.cores of holdfast")
    parser.add_argument("--relay-buffer", default="4KiB")
    parser.add_argument("--holdfast", help="binary to measure (default: target/release/holdfast)")
    parser.add_argument("--perf", help="holdfast-perf binary (default: target/release/holdfast-perf)")
    parser.add_argument("--config", action="append", default=[],
                        help="one more configuration file merged over holdfast's (repeatable)")
    parser.add_argument("--wait-quiet", type=float, default=0, metavar="SECONDS",
                        help="before each measurement wait so long for other processes to rest")
    parser.add_argument("--forwarded", action="store_true",
                        help="nginx and haproxy set X-Forwarded-For, -Proto and -Host too")
    parser.add_argument("--out", help="write every measurement to this JSON file")
