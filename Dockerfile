# A node, or the placement service, of any app: the command says which. See compose.yaml and docs/operations.md.
FROM python:3.13-slim
WORKDIR /perdure
COPY . .
RUN pip install --no-cache-dir '.[redis,postgres]' && useradd --create-home perdure \
    && install --directory --owner perdure /shop
USER perdure
ENTRYPOINT ["perdure"]
