package config

import (
	"encoding/json"
	"net/netip"
)

// object is JSON: Envoy reads its configuration as such.
type object = map[string]any

// Envoy renders a bootstrap file. Its statistics are on, as they always are; access log, request ids and Envoy's own fields
// are off, because the others write none.
func Envoy(s Setup) ([]byte, error) {
	var clusters []object
	for _, b := range s.Backends {
		clusters = append(clusters, envoyCluster(b, s.GRPC))
	}
	return json.MarshalIndent(object{
		"static_resources": object{
			"listeners": []object{{
				"name":    "in",
				"address": envoyAddress(s.Listen),
				"filter_chains": []object{{"filters": []object{{
					"name":         "envoy.filters.network.http_connection_manager",
					"typed_config": envoyManager(s),
				}}}},
			}},
			"clusters": clusters,
		},
		// Without this Envoy warns, and counts connections against no limit.
		"overload_manager": object{"resource_monitors": []object{{
			"name": "envoy.resource_monitors.global_downstream_max_connections",
			"typed_config": object{
				"@type":                             "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
				"max_active_downstream_connections": maxConnections,
			},
		}}},
	}, "", " ")
}

func envoyAddress(a netip.AddrPort) object {
	return object{"socket_address": object{"address": a.Addr().String(), "port_value": a.Port()}}
}

func envoyManager(s Setup) object {
	codec := "HTTP1"
	if s.GRPC {
		codec = "HTTP2"
	}
	return object{
		"@type":                             "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix":                       "in",
		"codec_type":                        codec,
		"generate_request_id":               false,
		"preserve_external_request_id":      true,
		"server_header_transformation":      "PASS_THROUGH",
		"skip_xff_append":                   true,
		"always_set_request_id_in_response": false,
		"http_filters": []object{{
			"name": "envoy.filters.http.router",
			"typed_config": object{
				"@type":                  "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
				"suppress_envoy_headers": true,
			},
		}},
		"route_config": object{
			"name":          "web",
			"virtual_hosts": []object{{"name": "web", "domains": []string{"*"}, "routes": envoyRoutes(s)}},
		},
	}
}

func envoyRoutes(s Setup) []object {
	var weighted []object
	for _, b := range s.Backends {
		weighted = append(weighted, object{"name": b.Name, "weight": b.Weight})
	}
	action := object{"weighted_clusters": object{"clusters": weighted}, "timeout": "0s"}
	field := []object{{"name": MatchName, "string_match": object{"exact": MatchValue}}}
	if s.Routes <= 1 {
		return []object{{"match": object{"prefix": "/", "headers": field}, "route": action}}
	}
	routes := make([]object, s.Routes)
	for i := range routes {
		routes[i] = object{"match": object{"path_separated_prefix": Prefix(i), "headers": field}, "route": action}
	}
	return routes
}

func envoyCluster(b Backend, grpc bool) object {
	const many = 100000
	cluster := object{
		"name":            b.Name,
		"type":            "STATIC",
		"connect_timeout": "5s",
		"circuit_breakers": object{"thresholds": []object{{
			"max_connections": many, "max_pending_requests": many, "max_requests": many, "max_retries": many,
		}}},
		"load_assignment": object{
			"cluster_name": b.Name,
			"endpoints":    []object{{"lb_endpoints": []object{{"endpoint": object{"address": envoyAddress(b.Address)}}}}},
		},
	}
	if grpc {
		const options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
		cluster["typed_extension_protocol_options"] = object{options: object{
			"@type": "type.googleapis.com/" + options, "explicit_http_config": object{"http2_protocol_options": object{}},
		}}
	}
	return cluster
}
