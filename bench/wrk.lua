-- A connection per request, and the figures as one line of JSON. Latencies of wrk are in microseconds.
wrk.headers["Connection"] = "close"

function done(summary, latency, requests)
   local wrong = summary.errors
   local failed = wrong.connect + wrong.read + wrong.write + wrong.timeout + wrong.status
   io.write(string.format('{"rate": %f, "p50": %f, "p99": %f, "errors": %d}\n',
      (summary.requests - wrong.status) * 1e6 / summary.duration,
      latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, failed))
end
