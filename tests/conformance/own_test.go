package conformance

import (
	"maps"
	"testing"

	"sigs.k8s.io/gateway-api/conformance/utils/echo"
	"sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// ownTests are what later versions of the suite have for meshes, and this one does not: v1.7.0 looks at what RequestHeaderModifier does
// to gRPC.
func ownTests() []suite.ConformanceTest {
	return []suite.ConformanceTest{{
		ShortName:   "OwnMeshGRPCRouteRequestHeaderModifier",
		Description: "A GRPCRoute of a mesh sets, adds and removes headers of requests",
		Manifests:   []string{"own/grpcroute-request-header-modifier.yaml"},
		Features:    []features.FeatureName{features.SupportMesh, features.SupportGRPCRoute},
		Test:        testGRPCHeaders,
	}}
}

func testGRPCHeaders(t *testing.T, s *suite.ConformanceTestSuite) {
	client := echo.ConnectToApp(t, s, echo.MeshAppEchoV1)
	for _, c := range []struct {
		does    string
		sent    map[string]string
		want    map[string]string
		absent  []string
		backend string
	}{
		{"set", map[string]string{"x-set": "old"}, map[string]string{"x-set": "new"}, nil, "echo-v1"},
		{"set", nil, map[string]string{"x-set": "new"}, nil, "echo-v1"},
		{"add", map[string]string{"x-add": "one"}, map[string]string{"x-add": "one,two"}, nil, "echo-v2"},
		{"remove", map[string]string{"x-remove": "old", "x-other": "stays"}, map[string]string{"x-other": "stays"}, []string{"x-remove"}, "echo-v1"},
		{
			"all", map[string]string{"x-set": "old", "x-add": "one", "x-remove": "old"},
			map[string]string{"x-set": "new", "x-add": "one,two", "x-new": "here"}, []string{"x-remove"}, "echo-v2",
		},
		{"nothing", map[string]string{"x-set": "old", "x-remove": "old"}, map[string]string{"x-set": "old", "x-remove": "old"}, []string{"x-add"}, "echo-v1"},
	} {
		t.Run(c.does, func(t *testing.T) {
			sent := map[string]string{"x-do": c.does}
			maps.Copy(sent, c.sent)
			client.MakeRequestAndExpectEventuallyConsistentResponse(t, http.ExpectedResponse{
				Request:         http.Request{Protocol: "grpc", Host: "echo:7070", Headers: sent},
				ExpectedRequest: &http.ExpectedRequest{Headers: c.want, AbsentHeaders: c.absent},
				Response:        http.Response{StatusCodes: []int{200}},
				Backend:         c.backend,
				Namespace:       suite.MeshNamespace,
			}, s.TimeoutConfig)
		})
	}
}
