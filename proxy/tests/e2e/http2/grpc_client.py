import os, queue, grpc
channel = grpc.insecure_channel("127.0.0.1:" + os.environ["PORT"])
unary = channel.unary_unary("/t.T/Unary")
answer, call = unary.with_call(b"hello", timeout=10)
assert answer == b"HELLO", answer
assert ("x-first", "yes") in call.initial_metadata(), call.initial_metadata()
assert ("x-last", "yes") in call.trailing_metadata(), call.trailing_metadata()
try:
    unary(b"fail", timeout=10)
    raise SystemExit("no failure")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND and error.details() == "no such thing", error
try:
    channel.unary_unary("/t.T/Nothing")(b"", timeout=10)
    raise SystemExit("no failure")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
parts = list(channel.unary_stream("/t.T/ServerStream")(b"100", timeout=10))
assert parts == [b"part %d" % n for n in range(100)], parts
sent = [bytes([n]) * 10000 for n in range(100)]
assert channel.stream_unary("/t.T/ClientStream")(iter(sent), timeout=20) == b"".join(sent)
# One at a time, each way: nothing waits for more.
requests = queue.Queue()
answers = channel.stream_stream("/t.T/Both")(iter(requests.get, None), timeout=20)
for n in range(50):
    requests.put(b"message %d" % n)
    assert next(answers) == (b"message %d" % n)[::-1]
requests.put(None)
assert list(answers) == []
# Many calls over one connection.
futures = [unary.future(b"call %d" % n, timeout=20) for n in range(200)]
assert [f.result() for f in futures] == [b"CALL %d" % n for n in range(200)]
big = b"x" * 3_000_000
assert unary(big, timeout=20) == big.upper()
print("done")
