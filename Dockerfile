# The image for those who have Docker. `make images` makes the same without it, and needs no more than Go.
#   docker build -t localhost/sluice:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 ...
# The .git folder belongs to the context: the programs tell from which commit they are.

FROM --platform=$BUILDPLATFORM golang:1.27 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH
ENV CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH
RUN go build -trimpath -ldflags "-s -w" -o /out/sluice ./cli \
 && go build -trimpath -ldflags "-s -w" -o /out/sluice-agent ./agent \
 && go build -trimpath -ldflags "-s -w" -o /out/sluice-cni ./cni \
 && go build -trimpath -ldflags "-s -w" -o /out/sluice-proxy ./l7proxy

FROM scratch
COPY --from=build /out/ /usr/local/bin/
ENV PATH=/usr/local/bin
WORKDIR /
USER 0:0
CMD ["sluice", "help"]
