import sys, grpc
from concurrent import futures
# No generated code: bytes in, bytes out.
def unary(request, context):
    context.send_initial_metadata((("x-first", "yes"),))
    context.set_trailing_metadata((("x-last", "yes"),))
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    return request.upper()
def server_stream(request, context):
    for n in range(int(request)):
        yield b"part %d" % n
def client_stream(requests, context):
    return b"".join(requests)
def both(requests, context):
    for one in requests:
        yield one[::-1]
class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/t.T/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/t.T/ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
            "/t.T/ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
            "/t.T/Both": grpc.stream_stream_rpc_method_handler(both),
        }.get(details.method)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), handlers=(Handler(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(0)
