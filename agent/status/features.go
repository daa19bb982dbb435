package status

import (
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// Features are the names of the Gateway API's features that Sluice supports, sorted: what an XMesh says, and what the
// official suite is run with. Those of routes without "Mesh" in their names have no counterpart of the mesh's own.
func Features() []gatewayv1.FeatureName {
	names := []gatewayv1.FeatureName{
		gatewayv1.FeatureName(features.SupportHTTPRoute), gatewayv1.FeatureName(features.SupportGRPCRoute),
		gatewayv1.FeatureName(features.SupportHTTPRouteParentRefPort), gatewayv1.FeatureName(features.SupportHTTPRouteResponseHeaderModification),
		gatewayv1.FeatureName(features.SupportHTTPRoute303RedirectStatusCode),
		gatewayv1.FeatureName(features.SupportHTTPRoute307RedirectStatusCode),
		gatewayv1.FeatureName(features.SupportHTTPRoute308RedirectStatusCode),
		gatewayv1.FeatureName(features.SupportMesh), gatewayv1.FeatureName(features.SupportMeshClusterIPMatching),
		gatewayv1.FeatureName(features.SupportMeshConsumerRoute), gatewayv1.FeatureName(features.SupportMeshHTTPRouteRewritePath),
		gatewayv1.FeatureName(features.SupportMeshHTTPRouteSchemeRedirect),
		gatewayv1.FeatureName(features.SupportMeshHTTPRouteRedirectPort), gatewayv1.FeatureName(features.SupportMeshHTTPRouteRedirectPath),
		gatewayv1.FeatureName(features.SupportMeshHTTPRouteBackendRequestHeaderModification),
		gatewayv1.FeatureName(features.SupportMeshHTTPRouteQueryParamMatching),
		gatewayv1.FeatureName(features.SupportMeshHTTPRouteNamedRouteRule),
	}
	slices.Sort(names)
	return names
}
