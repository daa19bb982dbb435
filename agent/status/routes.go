package status

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gateway "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Kinds of routes, as model.RouteRef has them.
const (
	httpRoute = "HTTPRoute"
	grpcRoute = "GRPCRoute"
)

// view is what has to be known of a route to write its status.
type view struct {
	uid        types.UID
	version    string
	generation int64
	parents    []gatewayv1.RouteParentStatus
}

func viewOf(o metav1.Object, parents []gatewayv1.RouteParentStatus) view {
	return view{uid: o.GetUID(), version: o.GetResourceVersion(), generation: o.GetGeneration(), parents: parents}
}

// signed says whether an entry of the status is of that controller.
func (v *view) signed(controller gatewayv1.GatewayController) bool {
	for i := range v.parents {
		if v.parents[i].ControllerName == controller {
			return true
		}
	}
	return false
}

// eachRoute calls f for the routes of all kinds.
func eachRoute(set *objects.Set, f func(model.RouteRef, view)) {
	for _, o := range set.HTTPRoutes {
		f(model.RouteRef{Kind: httpRoute, Namespace: o.Namespace, Name: o.Name}, viewOf(o, o.Status.Parents))
	}
	for _, o := range set.GRPCRoutes {
		f(model.RouteRef{Kind: grpcRoute, Namespace: o.Namespace, Name: o.Name}, viewOf(o, o.Status.Parents))
	}
}

// routes reads and patches routes of all kinds.
type routes struct{ client gateway.Interface }

// get reads a route from the server itself, not from a cache.
func (r routes) get(ctx context.Context, ref model.RouteRef) (view, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	switch ref.Kind {
	case httpRoute:
		o, err := r.client.GatewayV1().HTTPRoutes(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return view{}, err
		}
		return viewOf(o, o.Status.Parents), nil
	case grpcRoute:
		o, err := r.client.GatewayV1().GRPCRoutes(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return view{}, err
		}
		return viewOf(o, o.Status.Parents), nil
	}
	return view{}, errKind(ref)
}

// patch changes the status of a route, and returns what it is then.
func (r routes) patch(ctx context.Context, ref model.RouteRef, patch []byte) (view, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	switch ref.Kind {
	case httpRoute:
		o, err := r.client.GatewayV1().HTTPRoutes(ref.Namespace).Patch(ctx, ref.Name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil {
			return view{}, err
		}
		return viewOf(o, o.Status.Parents), nil
	case grpcRoute:
		o, err := r.client.GatewayV1().GRPCRoutes(ref.Namespace).Patch(ctx, ref.Name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil {
			return view{}, err
		}
		return viewOf(o, o.Status.Parents), nil
	}
	return view{}, errKind(ref)
}

func errKind(ref model.RouteRef) error {
	return fmt.Errorf("%s: statuses of this kind are not written", ref)
}
