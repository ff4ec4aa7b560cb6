/** The wire fuzz on a kernel that offers no io_uring: the native transport with epoll alone. */
process.env["GATEWAY_TRANSPORT"] = "epoll";
await import("./wire-fuzz.test.ts");

export {};
