import { defineErrors } from "@quorate/common";

/** A call to a sidecar got no answer; what the sidecar refuses comes as a value instead. */
export const protoErrors = defineErrors({
  rpc_refused: {
    means: "Nobody listens at the sidecar's address.",
    todo: "Start the sidecar, or correct the address.",
  },
  rpc_denied: {
    means: "The sidecar doesn't know the caller: it showed no token, or another cluster's.",
    todo: "Name the cluster's own token (tokenFile, secrets/api.token) or certificates (tls) in the caller's configuration.",
  },
  rpc_reset: {
    means: "The connection to the sidecar broke before it answered; whether it acted is unknown.",
    todo: "Nothing: the coordinator asks again. If it lasts, look at the sidecar's log and the network.",
  },
  rpc_timeout: {
    means: "The sidecar didn't answer in time; whether it acted is unknown.",
    todo: "Nothing: the coordinator asks again. If it lasts, look at the sidecar's log and the network.",
  },
  rpc_aborted: {
    means: "The caller gave up the call.",
    todo: "Nothing.",
  },
  rpc_protocol: {
    means: "One side sent a message that the contract doesn't allow.",
    todo: "Check that coordinator and sidecar have compatible versions.",
  },
  rpc_internal: {
    means: "The sidecar failed while it served the call.",
    todo: "Read the sidecar's log at that time.",
  },
});

export const errorTable = protoErrors.table;
