// @ts-check
/**
 * What travels between the page and its caller; the same names as in `/openapi.json`.
 *
 * @typedef {object} Message
 * @property {string} payload
 * @property {number} delay
 * @property {number} responseCode
 * @property {string} [target] left out: the caller's first
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
 *
 * @typedef {object} Problem the caller's refusal (RFC 9457)
 * @property {string} title
 * @property {number} status
 * @property {string} detail
 * @property {{field: string, message: string}[]} errors
 */

export {};
