/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs, their maps and the agent agree on, written once: Go gets these types from BTF (gen.go).
 * Padding is explicit, nothing is packed. Addresses are bytes in network order, an IPv4 address as ::ffff:a.b.c.d;
 * ports are in host order. A change that pinned maps of an earlier agent do not survive raises LAYOUT_VERSION.
 */
#ifndef SLUICE_ABI_H
#define SLUICE_ABI_H

#include <linux/types.h>

enum layout {
	LAYOUT_VERSION = 1,
};

/* Where redirected connections are sent: the frontend's id is in the low bits. Id 0 is reserved and refused. */
enum prefix {
	PREFIX_V4 = 0x7f400000, /* 127.64.0.0 */
	PREFIX_V4_BITS = 10,
	PREFIX_V6_0 = 0xfd6d, /* fd6d:6573:6800:: */
	PREFIX_V6_1 = 0x6573,
	PREFIX_V6_2 = 0x6800,
	PREFIX_V6_BITS = 96,
	FRONTEND_ID_MAX = 0x003fffff, /* what 127.64.0.0/10 holds */
};

/* Flags of a frontend. The bypass switch lifts them all. */
enum flag {
	FLAG_FAIL_CLOSED = 1,  /* refused, not direct, while no proxy serves */
	FLAG_NO_ENDPOINTS = 2, /* refused */
	FLAG_PASS_THROUGH = 4, /* left alone, and not recorded */
};

/* Counters. The enumerator's name, without its prefix and in lower case, is the name that users see. */
enum counter {
	COUNTER_REDIRECTED,          /* connects sent to the proxy */
	COUNTER_REFUSED,             /* connects refused because of the frontend's flags */
	COUNTER_EXEMPT,              /* connects of the proxy itself */
	COUNTER_NOT_ENROLLED,        /* connects to a frontend from a namespace that is no pod of ours */
	COUNTER_PASS_THROUGH,        /* connects left alone because the frontend says so */
	COUNTER_BOUND_TO_DEVICE,     /* connects of sockets that are bound to a device: they cannot reach lo */
	COUNTER_BYPASS_SWITCH,       /* connects let through: the switch is on */
	COUNTER_NO_LISTENER,         /* connects with no listener to send them to */
	COUNTER_STALE_HEARTBEAT,     /* connects while the proxy makes no progress */
	COUNTER_NO_MEMORY,           /* connects whose socket storage could not be had */
	COUNTER_PREFIX_DIALLED,      /* connects of an application to the prefix: refused */
	COUNTER_STEERED,             /* connections handed to a listener */
	COUNTER_STEER_NO_LISTENER,   /* dropped: the listener went away between the connect and the handshake */
	COUNTER_STEER_FAILED,        /* dropped: the listener does not take it */
	COUNTER_LISTENER_DIALLED,    /* dropped: an application dialled the listener itself */
	COUNTER_PREFIX_FROM_OUTSIDE, /* dropped: a neighbour sent the prefix to the pod */
	COUNTER_COUNT,
};

struct frontend_key {
	__u8 address[16];
	__u16 port;
	__u8 protocol; /* IPPROTO_TCP */
	__u8 pad;
};

struct frontend {
	__u32 id; /* 1 to FRONTEND_ID_MAX */
	enum flag flags;
};

/* A pod, keyed by the cookie of its network namespace. An address of zeros: it has none. */
struct pod {
	__u8 ipv4[4];
	__u8 ipv6[16];
	__u16 port; /* of its listeners */
	__u16 pad;
};

struct listener_key {
	__u64 netns; /* cookie */
	__u32 family; /* AF_INET, AF_INET6 */
	__u32 pad;
};

struct settings {
	__u64 heartbeat_limit;  /* ns */
	__u64 proxy_cgroups[2]; /* ids of cgroups that are never redirected; two for a handover, 0: none */
	__u32 bypass;           /* not 0: every connect is left alone */
	__u32 pad;
};

/* What outlives a change of layout: an agent reads it from the maps of any other. It never changes. */
struct numbering {
	__u32 next; /* the frontend id to give out next; 0: none was given out yet */
	enum layout layout; /* of the maps beside this one */
};

/* Kept on a socket that went to a frontend without us, so that it can be found and closed. */
struct bypass_record {
	struct frontend_key frontend;
	enum counter reason;
};

#endif
