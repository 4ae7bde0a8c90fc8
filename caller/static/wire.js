// @ts-check
/**
 * What travels between the page and its caller; the same names as in `/openapi.json`.
 *
 * @typedef {object} Message
 * @property {string} payload
 * @property {number} delay
 * @property {number} responseCode
 * @property {number} [faultRate]
 * @property {Record<string, string>} [only]
 * @property {"reuse" | "fresh"} connection
 * @property {string} [target] left out: the caller's first
 * @property {number} [timeoutSeconds]
 *
 * @typedef {object} RunRequest
 * @property {Omit<Message, "connection" | "target" | "timeoutSeconds">} message
 * @property {string[]} [targets]
 * @property {number} rate
 * @property {number} durationSeconds
 * @property {"reuse" | "fresh"} connection
 * @property {number} [timeoutSeconds]
 *
 * @typedef {object} ClusterMetadata
 * @property {string} clusterName
 * @property {string} clusterLocation
 * @property {string} hostName
 * @property {string} ipAddress
 * @property {string} region
 * @property {string} zone
 * @property {string} podName
 * @property {string} namespace
 * @property {string} nodeName
 * @property {string} serviceAccount
 * @property {string} version
 *
 * @typedef {Record<string, string[]>} Headers
 *
 * @typedef {object} Phases in ms; null: not taken
 * @property {number | null} dnsMillis
 * @property {number | null} connectMillis
 * @property {number | null} tlsMillis
 * @property {number | null} sendMillis
 * @property {number | null} waitMillis
 * @property {number | null} bodyMillis
 * @property {number | null} producerDelayMillis these three split `waitMillis`
 * @property {number | null} producerWorkMillis
 * @property {number | null} networkMillis
 *
 * @typedef {object} Connection
 * @property {"reuse" | "fresh"} mode
 * @property {boolean | null} reused
 * @property {string | null} localAddress
 * @property {string | null} peerAddress
 * @property {string | null} httpVersion
 * @property {string | null} tlsVersion
 * @property {string | null} tlsPeerName
 *
 * @typedef {object} Crossing null: unknown
 * @property {boolean | null} cluster
 * @property {boolean | null} region
 * @property {boolean | null} zone
 *
 * @typedef {object} ClockSkew the producer's clock less the caller's
 * @property {number} millis
 * @property {number} errorMillis
 *
 * @typedef {{cause: string, command: string, fix: string, source: string}} DiagnosedCause
 *
 * @typedef {object} Diagnosis
 * @property {"error" | "warning"} severity
 * @property {string} title
 * @property {string} summary
 * @property {DiagnosedCause[]} causes the likeliest first
 *
 * @typedef {object} HeaderChange values null: that side did not have it, or is not known to
 * @property {string} name
 * @property {"tracing" | "forwarding" | "mesh" | "load balancer" | "other"} group
 * @property {"same" | "added" | "changed" | "removed"} change
 * @property {string[] | null} sent
 * @property {string[] | null} received
 *
 * @typedef {{request: HeaderChange[], reply: HeaderChange[]}} HeaderDiff
 *
 * @typedef {object} DnsAnswer
 * @property {string} name
 * @property {string} type
 * @property {string} rcode
 * @property {string[]} addresses
 * @property {number | null} ttl seconds
 * @property {number} millis
 * @property {string | null} nameserver
 *
 * @typedef {{name: string, answers: DnsAnswer[]}} Candidate
 *
 * @typedef {object} DnsReport
 * @property {string} host
 * @property {{addresses: string[], error: string | null, millis: number}} system what getaddrinfo gave
 * @property {DnsAnswer[]} absolute empty for an address
 * @property {Candidate[]} candidates what a lookup tries, in order
 * @property {boolean} hostsFile
 * @property {number} queries
 * @property {number} wastedQueries
 * @property {DnsAnswer[]} twin the same Service under the other suffix
 * @property {{nameservers: string[], search: string[], ndots: number, error: string | null}} resolvConf
 *
 * @typedef {object} Hop one call to the producer and everything learnt from it
 * @property {string} id
 * @property {string | null} received
 * @property {Headers} callerHeaders
 * @property {Headers} producerHeaders
 * @property {Headers} sentHeaders
 * @property {Headers} returnedHeaders
 * @property {ClusterMetadata} callerMetadata
 * @property {ClusterMetadata | null} producerMetadata
 * @property {number} statusCode
 * @property {number | null} replyStatus null: none came in
 * @property {number} startedAt seconds since the epoch
 * @property {number} roundTripTimeMillis
 * @property {string} outcome
 * @property {{who: "producer" | "proxy" | "caller", name: string, evidence: string}} answeredBy
 * @property {string | null} error
 * @property {string} target
 * @property {Crossing} crossing
 * @property {boolean | null} faultApplied
 * @property {string[]} addresses
 * @property {Connection} connection
 * @property {Phases} phases
 * @property {ClockSkew | null} clockSkew
 * @property {HeaderDiff | null} headerDiff
 * @property {Diagnosis | null} diagnosis
 * @property {DnsReport | null} dns
 *
 * @typedef {object} Targets
 * @property {ClusterMetadata} callerMetadata
 * @property {{name: string, kind: string, dns: DnsReport | null}[]} targets
 * @property {number} maxPayloadBytes
 * @property {number} maxDelayMillis
 * @property {number} callTimeoutSeconds
 * @property {number} runMaxRate
 * @property {number} runMaxSeconds
 *
 * @typedef {object} RunSpec
 * @property {string[]} targets
 * @property {number} rate
 * @property {number} count
 * @property {"reuse" | "fresh"} connection
 * @property {number} timeoutSeconds
 *
 * @typedef {object} Latency
 * @property {number} count
 * @property {number | null} p50Millis
 * @property {number | null} p90Millis
 * @property {number | null} p99Millis
 * @property {number | null} maxMillis
 *
 * @typedef {object} Progress
 * @property {number} elapsedSeconds
 * @property {number} offered
 * @property {number} sent
 * @property {number} leftOut
 * @property {number} done
 * @property {number} inFlight
 * @property {number} rate
 * @property {Record<string, number>} outcomes
 * @property {{cluster: string, latency: Latency, serviceTime: Latency}[]} peers
 * @property {{clusters: Record<string, number>, zones: Record<string, number>, pods: Record<string, number>}} spread
 * @property {Latency} lateness
 *
 * @typedef {{cluster: string | null, zone: string | null, pod: string | null}} Who
 *
 * @typedef {object} Gap
 * @property {string} target
 * @property {number} atSeconds
 * @property {number} millis
 * @property {number} callsLost
 * @property {Record<string, number>} outcomes
 * @property {Who | null} before
 * @property {Who | null} after
 *
 * @typedef {{verdict: string, pods: number, chiSquared: number | null, pValue: number | null}} Evenness
 *
 * @typedef {Progress & {gaps: Gap[], gapCount: number, longestGapMillis: number, failures: number,
 *   evenness: Evenness, histograms: object}} Summary
 *
 * @typedef {{type: "started", run: RunSpec}
 *   | {type: "tick", progress: Progress, recent: Latency, answered: Record<string, number>,
 *      failed: Record<string, number>, newPods: Who[]}
 *   | {type: "gap", gap: Gap}
 *   | {type: "done", ended: "complete" | "stopped", reason: string | null, summary: Summary}
 *   | {type: "failed", reason: string}} RunEvent
 *
 * @typedef {object} Check
 * @property {string} check
 * @property {string | null} target null: not about one target
 * @property {"pass" | "warn" | "fail" | "skip"} verdict
 * @property {string} evidence
 * @property {string | null} nextStep
 * @property {string | null} command
 *
 * @typedef {object} CheckReport
 * @property {"pass" | "warn" | "fail" | "skip"} verdict the worst
 * @property {{target: string, outcome: string, clusterName: string | null}[]} targets
 * @property {Check[]} checks
 * @property {number} millis
 *
 * @typedef {object} Problem the caller's refusal (RFC 9457)
 * @property {string} title
 * @property {number} status
 * @property {string} detail
 * @property {{field: string, message: string}[]} errors
 */

export {};
