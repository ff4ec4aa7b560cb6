import { defineErrors } from "@quorate/common";

export const sidecarErrors = defineErrors({
  bad_config: {
    means: "sidecar.json, cluster.json or something on the machine that they name is wrong.",
    todo: "Do what the message says; nothing was started or changed.",
  },
});

export const errorTable = sidecarErrors.table;
