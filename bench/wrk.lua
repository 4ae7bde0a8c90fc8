-- POST the body after `--`, or GET without one; prints one line of JSON at the end.

function init(args)
  if args[1] then
    wrk.method = "POST"
    wrk.headers["content-type"] = "application/json"
    wrk.body = args[1]
  end
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '\n{"calls": %d, "seconds": %.6f, "failed": %d, "p50_millis": %.3f, "p99_millis": %.3f}\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
  ))
end
