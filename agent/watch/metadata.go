package watch

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
)

// askAgain is how long passes before a question that was not answered is asked again.
const askAgain = 500 * time.Millisecond

// metadata is a client for what all objects have.
func (c *connection) metadata(resource schema.GroupVersionResource) (metadata.Getter, error) {
	client, err := metadata.NewForConfigAndClient(metadata.ConfigFor(c.config), c.http)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", resource.Resource, err)
	}
	return client.Resource(resource), nil
}

// get reads an object's metadata. It asks until there is an answer, or the context ends; then it tells why there was
// none.
func get(ctx context.Context, from metadata.ResourceInterface, name string) (*metav1.PartialObjectMetadata, error) {
	var last error
	for {
		o, err := from.Get(ctx, name, metav1.GetOptions{})
		if err == nil || isFinal(err) {
			return o, err
		}
		if last == nil || ctx.Err() == nil { // that the context has ended explains nothing
			last = err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no answer (%w): %w", ctx.Err(), last)
		case <-time.After(askAgain):
		}
	}
}

// isFinal says whether asking again would bring the same answer.
func isFinal(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
}

// Zone reads which zone the node is in; "" where nobody has told the API server. It waits for an API server that does
// not answer until the context ends.
func (s *Source) Zone(ctx context.Context) (string, error) {
	nodes, err := s.server.metadata(corev1.SchemeGroupVersion.WithResource("nodes"))
	if err != nil {
		return "", err
	}
	n, err := get(ctx, nodes, s.cfg.Node)
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("there is no Node %s, so its zone is not known: correct --node: %w", s.cfg.Node, err)
	case err != nil:
		return "", fmt.Errorf("read the zone of Node %s: %w", s.cfg.Node, err)
	}
	if zone := n.Labels[corev1.LabelTopologyZone]; zone != "" {
		return zone, nil
	}
	return n.Labels[corev1.LabelFailureDomainBetaZone], nil
}
