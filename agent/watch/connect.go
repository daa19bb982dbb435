package watch

import (
	"errors"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Connect says how the API server is reached: as a kubeconfig's current context says, or as a pod's ServiceAccount
// does where the path is empty. Nothing is asked of the API server.
func Connect(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("find the API server from inside a pod (name a kubeconfig outside of one): %w", err)
		}
		return c, nil
	}
	c, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig %s: %w", kubeconfig, err)
	}
	return c, nil
}

// connection makes clients of one API server, which share their sockets.
type connection struct {
	host   string
	config *rest.Config
	http   *http.Client
	codecs runtime.NegotiatedSerializer
}

func newConnection(config *rest.Config) (*connection, error) {
	if config == nil {
		return nil, errors.New("it is not said how the API server is reached")
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, fmt.Errorf("know the kinds of objects: %w", err)
	}
	c := rest.CopyConfig(config)
	c.QPS = -1 // watches wait by themselves between attempts, and one kind's are not to wait for another's
	if c.UserAgent == "" {
		c.UserAgent = "sluice-agent"
	}
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("reach the API server %s: %w", c.Host, err)
	}
	return &connection{host: c.Host, config: c, http: client, codecs: lenient{serializer.NewCodecFactory(scheme).WithoutConversion()}}, nil
}

// client is one for a version of a group. The kinds of Kubernetes itself come in a form that is cheaper to read.
func (c *connection) client(group, version string) (rest.Interface, error) {
	config := rest.CopyConfig(c.config)
	config.APIPath = "/apis"
	if group == "" {
		config.APIPath = "/api"
	}
	config.GroupVersion = &schema.GroupVersion{Group: group, Version: version}
	config.NegotiatedSerializer = c.codecs
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	if isCustom(group) {
		config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	}
	client, err := rest.RESTClientForConfigAndClient(config, c.http)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", config.GroupVersion, err)
	}
	return client, nil
}
